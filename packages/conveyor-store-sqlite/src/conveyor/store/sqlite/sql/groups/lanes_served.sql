-- The next lanes whose group has had a turn, the one served longest ago first.
select json_group_array(json_array(p.sort_key, p.served, p.grp, p.name, p.active, p.tie_break, p.newest, p.served))
  from (
    select n.sort_key, n.tie_break, n.newest, n.served, n.active, n.grp, n.name
      from json_each(:kinds) k
      join conveyor_lanes n
        on n.lane in (
          select l.lane
            from conveyor_lanes l
           where l.queue = :queue
             and l.name = k.value ->> 0
             and l.throttled_for = k.value ->> 1
             and l.active = k.value ->> 2
             and l.paused = 0
             and l.served > 0
             and (l.sort_key, l.served) >= (:sort_key, :second)
           order by l.sort_key, l.served
           limit :count
        )
     order by n.sort_key, n.served
     limit :count
  ) p
