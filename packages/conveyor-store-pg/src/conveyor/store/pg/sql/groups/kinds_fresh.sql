-- The kinds of lanes whose group has had no turn yet: the next kind is found by its activity, else by its
-- parking, else by its name, so that each takes a few searches however many lanes it has.
with recursive kinds (name, parked_for, active) as (
  (
    select name, parked_for, active
      from {schema}.conveyor_lanes
     where queue = %(queue)s
       and not paused
       and served = 0
     order by name, parked_for, active
     limit 1
  )
  union all
  select n.name, n.parked_for, n.active
    from kinds k
   cross join lateral (
     select c.name, c.parked_for, c.active
       from (
         (
           select 1 as step, l.name, l.parked_for, l.active
             from {schema}.conveyor_lanes l
            where l.queue = %(queue)s
              and not l.paused
              and l.served = 0
              and l.name = k.name
              and l.parked_for = k.parked_for
              and l.active > k.active
            order by l.active
            limit 1
         )
         union all
         (
           select 2, l.name, l.parked_for, l.active
             from {schema}.conveyor_lanes l
            where l.queue = %(queue)s
              and not l.paused
              and l.served = 0
              and l.name = k.name
              and l.parked_for > k.parked_for
            order by l.parked_for, l.active
            limit 1
         )
         union all
         (
           select 3, l.name, l.parked_for, l.active
             from {schema}.conveyor_lanes l
            where l.queue = %(queue)s
              and not l.paused
              and l.served = 0
              and l.name > k.name
            order by l.name, l.parked_for, l.active
            limit 1
         )
       ) c
      order by c.step
      limit 1
   ) n
)
select name, parked_for, active
  from kinds
