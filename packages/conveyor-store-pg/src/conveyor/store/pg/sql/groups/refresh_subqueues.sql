-- Look up the first job of each sub-queue whose jobs have moved. Their groups are locked by now, so that this
-- sees all that has moved before. A sub-queue without a first job is an empty one: looked for by an anti-join,
-- thousands were compared with each other one by one.
with moved as materialized (
  select distinct m.queue, m.grp, m.name
    from unnest(%(queues)s::text[], %(groups)s::text[], %(names)s::text[]) m (queue, grp, name)
),
heads as materialized (
  select m.queue, m.grp, m.name, h.sort_key, h.tie_break, greatest(abs(h.tie_break), abs(l.tie_break)) as newest
    from moved m
    left join lateral (
      select sort_key, tie_break
        from {schema}.conveyor_jobs j
       where j.queue = m.queue
         and j.grp = m.grp
         and j.name = m.name
         and j.state = 'waiting'
         and j.grp is not null
       order by j.sort_key, j.tie_break
       limit 1
    ) h
      on true
    left join lateral (
      select tie_break
        from {schema}.conveyor_jobs j
       where j.queue = m.queue
         and j.grp = m.grp
         and j.name = m.name
         and j.state = 'waiting'
         and j.grp is not null
         and j.sort_key = h.sort_key
       order by j.sort_key desc, j.tie_break desc
       limit 1
    ) l
      on true
),
emptied as (
  delete from {schema}.conveyor_subqueues l
   using heads h
   where h.tie_break is null
     and l.queue = any(array[h.queue])
     and l.grp = any(array[h.grp])
     and l.name = any(array[h.name])
)
insert into {schema}.conveyor_subqueues as l
  (queue, grp, name, sort_key, tie_break, newest, last_served, active, paused, throttled_for)
select h.queue, h.grp, h.name, h.sort_key, h.tie_break, -h.newest, g.last_served, g.active, g.paused, g.throttled_for
  from heads h
 cross join lateral (
   select last_served, active, paused, throttled_for
     from {schema}.conveyor_groups
    where queue = h.queue
      and grp = h.grp
   offset 0
 ) g
 where h.tie_break is not null
on conflict (queue, grp, name) do update
  set sort_key = excluded.sort_key,
      tie_break = excluded.tie_break,
      newest = excluded.newest,
      last_served = excluded.last_served,
      active = excluded.active,
      paused = excluded.paused,
      throttled_for = excluded.throttled_for
