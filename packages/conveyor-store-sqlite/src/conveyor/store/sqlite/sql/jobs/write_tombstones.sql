insert into conveyor_tombstones (queue, id, token, state, at)
select e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> 3, :now
  from json_each(:tombstones) e
 where true
on conflict (queue, id, token) do update
  set state = excluded.state,
      at = excluded.at
