-- The classes of sub-queues whose group was served before: equal in name, throttling and active
-- jobs. The next class is found by its active jobs, else by its throttling, else by its name, so that each takes a
-- few searches however many sub-queues it has.
with recursive classes (name, throttled_for, active) as (
  (
    select name, throttled_for, active
      from {schema}.conveyor_subqueues
     where queue = %(queue)s
       and not paused
       and last_served > 0
     order by name, throttled_for, active
     limit 1
  )
  union all
  select n.name, n.throttled_for, n.active
    from classes k
   cross join lateral (
     select c.name, c.throttled_for, c.active
       from (
         (
           select 1 as step, l.name, l.throttled_for, l.active
             from {schema}.conveyor_subqueues l
            where l.queue = %(queue)s
              and not l.paused
              and l.last_served > 0
              and l.name = k.name
              and l.throttled_for = k.throttled_for
              and l.active > k.active
            order by l.active
            limit 1
         )
         union all
         (
           select 2, l.name, l.throttled_for, l.active
             from {schema}.conveyor_subqueues l
            where l.queue = %(queue)s
              and not l.paused
              and l.last_served > 0
              and l.name = k.name
              and l.throttled_for > k.throttled_for
            order by l.throttled_for, l.active
            limit 1
         )
         union all
         (
           select 3, l.name, l.throttled_for, l.active
             from {schema}.conveyor_subqueues l
            where l.queue = %(queue)s
              and not l.paused
              and l.last_served > 0
              and l.name > k.name
            order by l.name, l.throttled_for, l.active
            limit 1
         )
       ) c
      order by c.step
      limit 1
   ) n
)
select name, throttled_for, active
  from classes
