-- Groups that are there, and have had as many starts as their rate allows.
insert into conveyor_groups (queue, grp, throttled_for, throttled_until)
select :queue, e.value ->> 0, :rate, e.value ->> 1
  from json_each(:groups) e
 where true
on conflict (queue, grp) do update
  set throttled_for = excluded.throttled_for,
      throttled_until = excluded.throttled_until
