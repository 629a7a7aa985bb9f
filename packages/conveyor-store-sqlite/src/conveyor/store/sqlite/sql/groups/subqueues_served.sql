-- The next sub-queues whose group was served before, the one served longest ago first.
select json_group_array(json_array(p.sort_key, p.last_served, p.grp, p.name, p.active, p.tie_break, p.newest, p.last_served))
  from (
    select n.sort_key, n.tie_break, n.newest, n.last_served, n.active, n.grp, n.name
      from json_each(:classes) k
      join conveyor_subqueues n
        on n.number in (
          select l.number
            from conveyor_subqueues l
           where l.queue = :queue
             and l.name = k.value ->> 0
             and l.throttled_for = k.value ->> 1
             and l.active = k.value ->> 2
             and l.paused = 0
             and l.last_served > 0
             and (l.sort_key, l.last_served) >= (:sort_key, :second)
           order by l.sort_key, l.last_served
           limit :count
        )
     order by n.sort_key, n.last_served
     limit :count
  ) p
