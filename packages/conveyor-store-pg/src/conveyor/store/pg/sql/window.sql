-- The starts of each target in a window, and, if they are as many as allowed, the one that must leave it first.
select
  t.target,
  latest.total - first.before,
  case
    when latest.total - first.before >= %(max)s then (
      select s.at at time zone 'UTC'
        from {schema}.conveyor_starts s
       where s.queue = %(queue)s
         and s.kind = %(kind)s
         and s.target = t.target
         and s.at > %(since)s
         and s.total > latest.total - %(max)s
       order by s.at
       limit 1
    )
  end
  from unnest(%(targets)s::text[]) t (target)
 cross join lateral (
   select s.total
     from {schema}.conveyor_starts s
    where s.queue = %(queue)s
      and s.kind = %(kind)s
      and s.target = t.target
      and s.at > %(since)s
      and s.at <= %(now)s
    order by s.at desc
    limit 1
 ) latest
 cross join lateral (
   select s.total - s.starts as before
     from {schema}.conveyor_starts s
    where s.queue = %(queue)s
      and s.kind = %(kind)s
      and s.target = t.target
      and s.at > %(since)s
      and s.at <= %(now)s
    order by s.at
    limit 1
 ) first
