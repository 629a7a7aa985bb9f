-- The names that have waiting jobs without a group; one search for each.
with recursive names (name) as (
  select min(name)
    from {schema}.conveyor_jobs
   where queue = %(queue)s
     and state = 'waiting'
     and grp is null
  union all
  select (
    select min(j.name)
      from {schema}.conveyor_jobs j
     where j.queue = %(queue)s
       and j.state = 'waiting'
       and j.grp is null
       and j.name > names.name
  )
    from names
   where names.name is not null
)
select name
  from names
 where name is not null
