-- A claim of a queue that has nothing to do with groups, limits or pauses, in one step: whether it is such a
-- queue, the moment, and then the jobs. The first lane is asked for in the order of an index: for a mere
-- `exists` a plan may read all lanes of all queues, because it expects to meet one soon.
with gate as materialized (
  select
    m.now,
    exists (select from {schema}.conveyor_queues where queue = %(queue)s)
    or (
      select true
        from {schema}.conveyor_lanes
       where queue = %(queue)s
       order by grp, name
       limit 1
    ) is not null
    or exists (
      select
        from {schema}.conveyor_pauses
       where queue = %(queue)s
         and (until is null or until > m.now)
    ) as guarded
    from (select coalesce(%(now)s::timestamptz, clock_timestamp()) as now) m
),
picked as materialized (
  select seq
    from {schema}.conveyor_jobs
   where queue = %(queue)s
     and state = 'waiting'
     and grp is null
     and (select not guarded from gate)
   order by rank, place
   limit %(count)s
     for update skip locked
),
leased as (
  update {schema}.conveyor_jobs j
     set state = 'active',
         token = %(token)s,
         lease_until = g.now + %(lease)s * interval '1 microsecond',
         locked_by = %(worker)s,
         attempt = j.attempt + 1,
         processed_at = g.now
    from picked p, gate g
   where j.seq = p.seq
     and j.state = 'waiting'
  returning
    j.queue,
    j.id,
    j.name,
    j.payload::text,
    j.options::text,
    j.report::text,
    j.priority,
    j.lifo,
    j.ageing,
    j.delay,
    j.run_at at time zone 'UTC',
    j.grp,
    j.group_max_size,
    j.unique_key,
    j.unique_for,
    j.parent_queue,
    j.parent_id,
    j.state,
    j.seq,
    j.rank,
    j.holds_key,
    j.unique_until at time zone 'UTC',
    j.pending,
    j.released,
    j.token,
    j.lease_until at time zone 'UTC',
    j.locked_by,
    j.attempt,
    j.stalled,
    j.cancel_requested,
    j.created_at at time zone 'UTC',
    j.processed_at at time zone 'UTC',
    j.finished_at at time zone 'UTC',
    j.expires_at at time zone 'UTC',
    j.keep_count
)
select g.now at time zone 'UTC' as moment, g.guarded, l.*
  from gate g
  left join leased l
    on true
