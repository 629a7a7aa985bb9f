insert into conveyor_starts (queue, kind, target, at, starts, total)
select
  :queue,
  :kind,
  e.value ->> 0,
  :now,
  e.value ->> 1,
  (e.value ->> 1) + coalesce(
    (
      select s.total
        from conveyor_starts s
       where s.queue = :queue
         and s.kind = :kind
         and s.target = e.value ->> 0
         and s.at <= :now
       order by s.at desc
       limit 1
    ),
    0
  )
  from json_each(:targets) e
 where true
on conflict (queue, kind, target, at) do update
  set starts = starts + excluded.starts,
      total = excluded.total
