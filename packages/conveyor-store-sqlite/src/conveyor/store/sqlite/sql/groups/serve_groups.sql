-- The numbers of the latest turns of groups that are there.
insert into conveyor_groups (queue, grp, served)
select :queue, e.value ->> 0, e.value ->> 1
  from json_each(:served) e
 where true
on conflict (queue, grp) do update
  set served = excluded.served,
      known = 1
