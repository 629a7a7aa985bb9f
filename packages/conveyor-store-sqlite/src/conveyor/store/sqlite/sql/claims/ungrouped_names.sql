-- The names that have waiting jobs without a group; one search for each.
with recursive names (name) as (
  select min(name)
    from conveyor_jobs
   where queue = :queue
     and state = 'waiting'
     and grp is null
  union all
  select (
    select min(j.name)
      from conveyor_jobs j
     where j.queue = :queue
       and j.state = 'waiting'
       and j.grp is null
       and j.name > names.name
  )
    from names
   where names.name is not null
)
select json_group_array(name)
  from names
 where name is not null
