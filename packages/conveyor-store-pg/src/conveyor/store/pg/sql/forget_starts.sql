-- Starts that the longest window does not need any more.
delete from {schema}.conveyor_starts s
 using {schema}.conveyor_windows w
 where s.queue = any(%(queues)s::text[])
   and s.kind = any(%(kinds)s::text[])
   and w.queue = s.queue
   and w.kind = s.kind
   and s.at <= %(now)s::timestamptz - greatest(w.longest, 0) * interval '1 microsecond'
