-- The classes of sub-queues whose group was never served: equal in name, throttling and active
-- jobs. The next class is found by its active jobs, else by its throttling, else by its name, so that each takes a
-- few searches however many sub-queues it has.
with recursive classes (name, throttled_for, active) as (
  select name, throttled_for, active
    from (
      select name, throttled_for, active
        from conveyor_subqueues
             indexed by conveyor_subqueues_never_served
       where queue = :queue
         and paused = 0
         and last_served = 0
       order by name, throttled_for, active
       limit 1
    )
  union all
  select n.name, n.throttled_for, n.active
    from classes k
    join conveyor_subqueues n
      on n.number = coalesce(
        (
          select l.number
            from conveyor_subqueues l
                 indexed by conveyor_subqueues_never_served
           where l.queue = :queue
             and l.paused = 0
             and l.last_served = 0
             and l.name = k.name
             and l.throttled_for = k.throttled_for
             and l.active > k.active
           order by l.active
           limit 1
        ),
        (
          select l.number
            from conveyor_subqueues l
                 indexed by conveyor_subqueues_never_served
           where l.queue = :queue
             and l.paused = 0
             and l.last_served = 0
             and l.name = k.name
             and l.throttled_for > k.throttled_for
           order by l.throttled_for, l.active
           limit 1
        ),
        (
          select l.number
            from conveyor_subqueues l
                 indexed by conveyor_subqueues_never_served
           where l.queue = :queue
             and l.paused = 0
             and l.last_served = 0
             and l.name > k.name
           order by l.name, l.throttled_for, l.active
           limit 1
        )
      )
)
select json_group_array(json_array(name, throttled_for, active))
  from classes
