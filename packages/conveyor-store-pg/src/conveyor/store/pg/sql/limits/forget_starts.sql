-- Starts that the longest window does not need any more, so many at a time: a claim waits for this.
delete from {schema}.conveyor_starts
 where ctid = any(array(
   select o.place
     from {schema}.conveyor_windows w
    cross join lateral (
      select s.ctid as place
        from {schema}.conveyor_starts s
       where s.queue = w.queue
         and s.kind = w.kind
         and s.at <= %(now)s::timestamptz - greatest(w.longest, 0) * interval '1 microsecond'
       order by s.at
       limit 10000
    ) o
    where w.queue = any(%(queues)s::text[])
      and w.kind = any(%(kinds)s::text[])
 ))
