-- A claim of a queue that has nothing to do with groups or pauses, in one statement: the moment, whether the
-- queue is not like that, how many jobs the limit leaves capacity for, and then the jobs. Claims of a queue
-- that knows limits must lock it before this (lock_queue.sql), so that it counts what is true until it
-- commits. The first sub-queue, and the first group, are asked for in the order of an index: for a mere
-- `exists` a plan may read those of all queues, because it expects to meet one soon. The jobs are looked up by
-- an array of their numbers, not joined: a plan takes a limit that it does not know for a tenth of the table.
-- Nor by ctid: one that another call has changed since this began is locked where it is now, and this would not
-- see it there.
with preconditions as materialized (
  select
    m.now,
    case
      when %(locked)s::boolean
      then (
        select true
          from {schema}.conveyor_groups
         where queue = %(queue)s and known
         order by grp
         limit 1
      ) is not null
      else exists (select from {schema}.conveyor_queues where queue = %(queue)s)
    end
    or (
      select true
        from {schema}.conveyor_subqueues
       where queue = %(queue)s
       order by grp, name
       limit 1
    ) is not null
    or exists (
      select
        from {schema}.conveyor_pauses
       where queue = %(queue)s
         and (resumes_at is null or resumes_at > m.now)
    ) as needs_slow_path,
    case
      when %(active)s::bigint is null then %(count)s::bigint
      else greatest(
        0,
        least(
          %(count)s::bigint,
          %(active)s::bigint - (
            select count(*)
              from (
                select
                  from {schema}.conveyor_jobs
                 where queue = %(queue)s
                   and state = 'active'
                 limit %(active)s::bigint
              ) a
          )
        )
      )
    end as capacity
    from (select coalesce(%(now)s::timestamptz, clock_timestamp()) as now) m
),
picked as materialized (
  select seq, sort_key, tie_break, stalled
    from {schema}.conveyor_jobs
   where queue = %(queue)s
     and state = 'waiting'
     and grp is null
     and (select not needs_slow_path from preconditions)
   order by sort_key, tie_break
   limit (select capacity from preconditions)
     for update skip locked
),
-- The first of them that has stalled before, if that makes a difference: it ends what is chosen, or comes alone.
stalled as materialized (
  select seq, sort_key, tie_break
    from picked
   where stalled > 0
     and %(isolate)s::boolean
   order by sort_key, tie_break
   limit 1
),
chosen as materialized (
  select p.seq
    from picked p
    left join stalled s
      on true
   where s.seq is null
      or (p.sort_key, p.tie_break) < (s.sort_key, s.tie_break)
  union all
  select s.seq
    from stalled s
   where %(alone)s::boolean
     and not exists (
      select
        from picked p
       where (p.sort_key, p.tie_break) < (s.sort_key, s.tie_break)
    )
),
leased as (
  update {schema}.conveyor_jobs j
     set state = 'active',
         token = %(token)s,
         lease_until = (select now from preconditions) + %(lease)s * interval '1 microsecond',
         locked_by = %(worker)s,
         attempt = j.attempt + 1,
         started = %(started)s::boolean and j.stalled = 0,
         processed_at = (select now from preconditions)
   where j.seq = any(array(select seq from chosen))
  returning
    {include record_columns}
)
select
  g.now at time zone 'UTC' as moment,
  g.needs_slow_path,
  g.capacity,
  -- When more may be claimed, if time alone brings that about.
  (
    select run_at
      from {schema}.conveyor_jobs
     where queue = %(queue)s
       and state = 'delayed'
       and (select count(*) < (select capacity from preconditions) from leased)
     order by run_at
     limit 1
  ) at time zone 'UTC' as due,
  -- Whether one was passed over because another call is at it: it may be free again in a moment.
  (select count(*) < (select capacity from preconditions) from leased)
  and (
    select count(*) > (select count(*) from picked)
      from (
        select
          from {schema}.conveyor_jobs
         where queue = %(queue)s
           and state = 'waiting'
           and grp is null
         limit (select count(*) + 1 from picked)
      ) w
  ) as passed_over,
  exists (select from stalled) as cut_short,
  l.*
  from preconditions g
  left join leased l
    on true
