-- Keys whose time is over have no holder any more.
update conveyor_jobs
   set holds_key = 0
 where seq in (
   select j.seq
     from json_each(:jobs) e
     join conveyor_jobs j
       on j.queue = e.value ->> 0
      and j.unique_key = e.value ->> 2
      and j.holds_key = 1
    where j.unique_until <= :now
 )
