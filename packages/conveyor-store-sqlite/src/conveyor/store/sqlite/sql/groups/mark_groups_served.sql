-- Note the latest picks of groups, which are there.
insert into conveyor_groups (queue, grp, last_served)
select :queue, e.value ->> 0, e.value ->> 1
  from json_each(:groups) e
 where true
on conflict (queue, grp) do update
  set last_served = excluded.last_served,
      known = 1
