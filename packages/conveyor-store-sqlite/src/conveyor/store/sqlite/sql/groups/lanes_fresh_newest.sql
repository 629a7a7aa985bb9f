-- The next lanes whose group has had no turn yet, newest first.
select json_group_array(json_array(p.rank, p.newest, p.grp, p.name, p.active, p.place, p.newest, p.served))
  from (
    select n.rank, n.place, n.newest, n.served, n.active, n.grp, n.name
      from json_each(:kinds) k
      join conveyor_lanes n
        on n.lane in (
          select l.lane
            from conveyor_lanes l
           where l.queue = :queue
             and l.name = k.value ->> 0
             and l.parked_for = k.value ->> 1
             and l.active = k.value ->> 2
             and l.paused = 0
             and l.served = 0
             and (l.rank, l.newest) >= (:rank, :second)
           order by l.rank, l.newest
           limit :count
        )
     order by n.rank, n.newest
     limit :count
  ) p
