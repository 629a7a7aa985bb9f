-- The names that have waiting jobs in a group that is not paused; one search for each.
with recursive names (name) as (
  select min(name)
    from (
      select min(name) as name
        from conveyor_subqueues
       where queue = :queue
         and paused = 0
         and last_served = 0
      union all
      select min(name)
        from conveyor_subqueues
       where queue = :queue
         and paused = 0
         and last_served > 0
    )
  union all
  select (
    select min(name)
      from (
        select min(l.name) as name
          from conveyor_subqueues l
         where l.queue = :queue
           and l.paused = 0
           and l.last_served = 0
           and l.name > names.name
        union all
        select min(l.name)
          from conveyor_subqueues l
         where l.queue = :queue
           and l.paused = 0
           and l.last_served > 0
           and l.name > names.name
      )
  )
    from names
   where names.name is not null
)
select json_group_array(name)
  from names
 where name is not null
