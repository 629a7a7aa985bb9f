-- Write jobs, and say of each whether it is there now: the others met one that has its id or holds its key.
-- They are written by `write_order`, the same for all who add the same jobs, so that none waits for the other.
-- The sort key of a job with ageing grows with its time, by the period that is worth one step.
with m as materialized (
  select coalesce(%(now)s::timestamptz, clock_timestamp()) as now
),
given as materialized (
  select nextval('{schema}.conveyor_jobs_seq') as seq, g.*
    from (
      select *
        from unnest(
          %(queues)s::text[],
          %(ids)s::text[],
          %(names)s::text[],
          %(payloads)s::text[],
          %(options)s::text[],
          %(reports)s::text[],
          %(priorities)s::int[],
          %(lifo)s::boolean[],
          %(ageing)s::bigint[],
          %(delays)s::bigint[],
          %(run_at)s::timestamptz[],
          %(groups)s::text[],
          %(sizes)s::int[],
          %(keys)s::text[],
          %(key_times)s::bigint[],
          %(parent_queues)s::text[],
          %(parents)s::text[],
          %(pending)s::int[],
          %(released)s::boolean[],
          %(write_order)s::int[]
        ) with ordinality u (
          queue, id, name, payload, options, report, priority, lifo, ageing, delay, run_at, grp,
          group_max_size, unique_key, unique_for, parent_queue, parent_id, pending, released, write_order, ord
        )
       order by ord
    ) g
),
placed as (
  select
    g.*,
    m.now,
    case
      when g.pending > 0 then 'waiting-children'
      when g.delay is not null then case when g.delay > 0 then 'delayed' else 'waiting' end
      when g.run_at > m.now then 'delayed'
      else 'waiting'
    end as state
    from given g, m
),
written as (
  insert into {schema}.conveyor_jobs (
    seq, queue, id, name, payload, options, report, priority, lifo, ageing, delay, run_at, grp,
    group_max_size, unique_key, unique_for, parent_queue, parent_id, state, sort_key, tie_break, holds_key,
    unique_until, pending, released, created_at
  )
  select
    seq,
    queue,
    id,
    name,
    payload::jsonb,
    options::json,
    report::json,
    priority,
    lifo,
    ageing,
    case when state = 'waiting-children' then delay end,
    case
      when state = 'waiting-children' then run_at
      when state = 'delayed' then coalesce(now + delay * interval '1 microsecond', run_at)
    end,
    grp,
    group_max_size,
    unique_key,
    unique_for,
    parent_queue,
    parent_id,
    state,
    case
      when ageing is null then priority
      else priority + (extract(epoch from now) * 1000000)::bigint::float8 / ageing::float8
    end,
    case when lifo then -seq else seq end,
    unique_key is not null,
    now + unique_for * interval '1 microsecond',
    pending,
    released,
    now
    from placed
   order by write_order
  on conflict do nothing
  returning seq
)
select p.seq, w.seq is not null, p.state, p.now at time zone 'UTC'
  from placed p
  left join written w
    on w.seq = p.seq
 order by p.seq
