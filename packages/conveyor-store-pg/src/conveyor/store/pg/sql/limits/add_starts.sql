-- The latest total of a target is looked for by the whole key, as in count_starts.sql.
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
       where (b.queue, b.kind, b.target, b.at) > (%(queue)s, %(kind)s, t.target, '-infinity'::timestamptz)
         and (b.queue, b.kind, b.target, b.at) <= (%(queue)s, %(kind)s, t.target, %(now)s::timestamptz)
       order by b.queue desc, b.kind desc, b.target desc, b.at desc
       limit 1
    ),
    0
  )
  from unnest(%(targets)s::text[], %(starts)s::bigint[]) t (target, starts)
on conflict (queue, kind, target, at) do update
  set starts = s.starts + excluded.starts,
      total = excluded.total
