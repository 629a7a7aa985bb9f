-- The names that have waiting jobs in a group; one search for each of them and for each kind of group.
with recursive names (name) as (
  select min(name)
    from (
      select min(name) as name
        from {schema}.conveyor_lanes
       where queue = %(queue)s
         and not paused
         and served = 0
      union all
      select min(name)
        from {schema}.conveyor_lanes
       where queue = %(queue)s
         and not paused
         and served > 0
    ) first
  union all
  select (
    select min(n.name)
      from (
        select min(l.name) as name
          from {schema}.conveyor_lanes l
         where l.queue = %(queue)s
           and not l.paused
           and l.served = 0
           and l.name > names.name
        union all
        select min(l.name)
          from {schema}.conveyor_lanes l
         where l.queue = %(queue)s
           and not l.paused
           and l.served > 0
           and l.name > names.name
      ) n
  )
    from names
   where names.name is not null
)
select name
  from names
 where name is not null
