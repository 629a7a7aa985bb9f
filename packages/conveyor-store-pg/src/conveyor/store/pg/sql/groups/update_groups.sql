-- Count what has moved in each group, and note its latest pick and its throttling. The rows are locked in
-- order, and the call that has one of them is the only one to move the group's jobs until it commits.
insert into {schema}.conveyor_groups as g
  (queue, grp, known, waiting, delayed, active, last_served, throttled_for, throttled_until)
select m.queue, m.grp, m.known, m.waiting, m.delayed, m.active, m.last_served, coalesce(m.throttled_for, ''), m.throttled_until
  from unnest(
    %(queues)s::text[],
    %(groups)s::text[],
    %(known)s::boolean[],
    %(waiting)s::int[],
    %(delayed)s::int[],
    %(active)s::int[],
    %(last_served)s::bigint[],
    %(throttled_for)s::text[],
    %(throttled_until)s::timestamptz[]
  ) m (queue, grp, known, waiting, delayed, active, last_served, throttled_for, throttled_until)
 order by m.queue collate "C", m.grp collate "C"
on conflict (queue, grp) do update
  set known = g.known or excluded.known,
      waiting = g.waiting + excluded.waiting,
      delayed = g.delayed + excluded.delayed,
      active = g.active + excluded.active,
      last_served = greatest(g.last_served, excluded.last_served),
      throttled_for = case when excluded.throttled_until is null then g.throttled_for else excluded.throttled_for end,
      throttled_until = coalesce(excluded.throttled_until, g.throttled_until)
