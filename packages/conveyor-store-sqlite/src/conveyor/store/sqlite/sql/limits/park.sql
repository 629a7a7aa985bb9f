-- Groups that are there, and have had as many starts as their rate allows.
insert into conveyor_groups (queue, grp, parked_for, parked_until)
select :queue, e.value ->> 0, :rate, e.value ->> 1
  from json_each(:groups) e
 where true
on conflict (queue, grp) do update
  set parked_for = excluded.parked_for,
      parked_until = excluded.parked_until
