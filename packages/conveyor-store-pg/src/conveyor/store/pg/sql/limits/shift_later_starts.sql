-- Starts recorded for later instants, by a clock that was set back since, come after these.
update {schema}.conveyor_starts s
   set total = s.total + t.starts
  from unnest(%(targets)s::text[], %(starts)s::bigint[]) t (target, starts)
 where s.queue = %(queue)s
   and s.kind = %(kind)s
   and s.target = any(array[t.target])
   and s.at > %(now)s
