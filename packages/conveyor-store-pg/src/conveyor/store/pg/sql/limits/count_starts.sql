-- The starts of each target in a window, and the one that must leave it before one more may be there when it is
-- full. Rows are compared, and ordered, by the whole key: by `at` alone a plan without statistics may go through
-- the starts of all targets.
select
  t.target,
  latest.total - first.before,
  case
    when latest.total - first.before > %(max)s then (
      select s.at
        from {schema}.conveyor_starts s
       where (s.queue, s.kind, s.target, s.at) > (%(queue)s, %(kind)s, t.target, %(since)s::timestamptz)
         and (s.queue, s.kind, s.target, s.at) <= (%(queue)s, %(kind)s, t.target, %(now)s::timestamptz)
         and s.total > latest.total - %(max)s
       order by s.queue, s.kind, s.target, s.at
       limit 1
    )
    else first.at
  end at time zone 'UTC'
  from unnest(%(targets)s::text[]) t (target)
 cross join lateral (
   select s.total
     from {schema}.conveyor_starts s
    where (s.queue, s.kind, s.target, s.at) > (%(queue)s, %(kind)s, t.target, %(since)s::timestamptz)
      and (s.queue, s.kind, s.target, s.at) <= (%(queue)s, %(kind)s, t.target, %(now)s::timestamptz)
    order by s.queue desc, s.kind desc, s.target desc, s.at desc
    limit 1
 ) latest
 cross join lateral (
   select s.at, s.total - s.starts as before
     from {schema}.conveyor_starts s
    where (s.queue, s.kind, s.target, s.at) > (%(queue)s, %(kind)s, t.target, %(since)s::timestamptz)
      and (s.queue, s.kind, s.target, s.at) <= (%(queue)s, %(kind)s, t.target, %(now)s::timestamptz)
    order by s.queue, s.kind, s.target, s.at
    limit 1
 ) first
