-- The kinds of lanes whose group has had a turn: the next kind is found by its activity, else by its
-- throttling, else by its name, so that each takes a few searches however many lanes it has.
with recursive kinds (name, throttled_for, active) as (
  select name, throttled_for, active
    from (
      select name, throttled_for, active
        from conveyor_lanes
             indexed by conveyor_lanes_served
       where queue = :queue
         and paused = 0
         and served > 0
       order by name, throttled_for, active
       limit 1
    )
  union all
  select n.name, n.throttled_for, n.active
    from kinds k
    join conveyor_lanes n
      on n.lane = coalesce(
        (
          select l.lane
            from conveyor_lanes l
                 indexed by conveyor_lanes_served
           where l.queue = :queue
             and l.paused = 0
             and l.served > 0
             and l.name = k.name
             and l.throttled_for = k.throttled_for
             and l.active > k.active
           order by l.active
           limit 1
        ),
        (
          select l.lane
            from conveyor_lanes l
                 indexed by conveyor_lanes_served
           where l.queue = :queue
             and l.paused = 0
             and l.served > 0
             and l.name = k.name
             and l.throttled_for > k.throttled_for
           order by l.throttled_for, l.active
           limit 1
        ),
        (
          select l.lane
            from conveyor_lanes l
                 indexed by conveyor_lanes_served
           where l.queue = :queue
             and l.paused = 0
             and l.served > 0
             and l.name > k.name
           order by l.name, l.throttled_for, l.active
           limit 1
        )
      )
)
select json_group_array(json_array(name, throttled_for, active))
  from kinds
