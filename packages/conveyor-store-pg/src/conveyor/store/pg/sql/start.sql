insert into {schema}.conveyor_starts as s (queue, kind, target, at, starts, total)
select
  %(queue)s,
  %(kind)s,
  t.target,
  %(now)s,
  t.starts,
  t.starts + coalesce(
    (
      select b.total
        from {schema}.conveyor_starts b
       where b.queue = %(queue)s
         and b.kind = %(kind)s
         and b.target = t.target
         and b.at <= %(now)s
       order by b.at desc
       limit 1
    ),
    0
  )
  from unnest(%(targets)s::text[], %(starts)s::bigint[]) t (target, starts)
on conflict (queue, kind, target, at) do update
  set starts = s.starts + excluded.starts,
      total = excluded.total
