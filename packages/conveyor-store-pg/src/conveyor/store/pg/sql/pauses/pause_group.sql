-- The group has its row, whether it has jobs or not: a job that is added finds it paused.
insert into {schema}.conveyor_groups as g (queue, grp, paused)
values (%(queue)s, %(group)s, true)
on conflict (queue, grp) do update
  set paused = true
