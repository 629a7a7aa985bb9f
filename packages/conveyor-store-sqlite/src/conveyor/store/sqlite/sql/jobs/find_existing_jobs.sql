-- For each job of a call the one that has its id, or else the holder of its key, if it was there before.
select json_group_array(json_array(e.key, j.queue, j.id, j.state, j.created_at))
  from json_each(:jobs) e
  join conveyor_jobs j
    on j.seq = coalesce(
      (
        select i.seq
          from conveyor_jobs i
         where i.queue = e.value ->> 0
           and i.id = e.value ->> 1
           and +i.seq < e.value ->> 3
      ),
      (
        select k.seq
          from conveyor_jobs k
         where k.queue = e.value ->> 0
           and k.unique_key = e.value ->> 2
           and k.holds_key = 1
           and +k.seq < e.value ->> 3
      )
    )
