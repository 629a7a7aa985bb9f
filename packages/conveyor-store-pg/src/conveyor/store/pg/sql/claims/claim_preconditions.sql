-- What a claim has to know first (find_candidates.sql begins with it): the moment, whether the queue is paused
-- and until when, which names are, its picks so far, whether it knows any, whether any job of a group is
-- waiting, whether its claims go one after another, and whether groups may resume that were paused or
-- throttled. The first of a kind is asked for in the order of an index, as in claim.sql.
select
  m.now at time zone 'UTC' as now,
  exists (
    select
      from {schema}.conveyor_pauses
     where queue = %(queue)s
       and kind = 'queue'
       and (resumes_at is null or resumes_at > m.now)
  ) as paused,
  (
    select resumes_at at time zone 'UTC'
      from {schema}.conveyor_pauses
     where queue = %(queue)s
       and kind = 'queue'
       and resumes_at > m.now
  ) as paused_until,
  array(
    select target
      from {schema}.conveyor_pauses
     where queue = %(queue)s
       and kind = 'name'
       and (resumes_at is null or resumes_at > m.now)
  ) as paused_names,
  coalesce(q.picks, 0) as picks,
  coalesce(q.ungrouped_last_served, 0) as ungrouped_last_served,
  (
    select true
      from {schema}.conveyor_groups
     where queue = %(queue)s and known
     order by grp
     limit 1
  ) is not null as counted,
  (
    select true
      from {schema}.conveyor_subqueues
     where queue = %(queue)s
     order by grp, name
     limit 1
  ) is not null as grouped,
  q.queue is not null as serialized,
  exists (
    select
      from {schema}.conveyor_pauses
     where queue = %(queue)s
       and kind = 'group'
       and resumes_at <= m.now
  ) or exists (
    select
      from {schema}.conveyor_groups
     where queue = %(queue)s
       and throttled_for = %(rate)s
       and throttled_for <> ''
       and throttled_until <= m.now
  ) or exists (
    select
      from {schema}.conveyor_groups
     where queue = %(queue)s
       and throttled_for = %(rate)s
       and throttled_for <> ''
       and throttled_until > m.now + %(window)s::bigint * interval '1 microsecond'
  ) as resumable
  from (select coalesce(%(now)s::timestamptz, clock_timestamp()) as now) m
  left join {schema}.conveyor_queues q
    on q.queue = %(queue)s
