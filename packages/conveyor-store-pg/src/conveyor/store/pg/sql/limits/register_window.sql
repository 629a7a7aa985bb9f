insert into {schema}.conveyor_windows as w (queue, kind, longest)
values (%(queue)s, %(kind)s, %(longest)s)
on conflict (queue, kind) do update
  set longest = excluded.longest
where excluded.longest > w.longest
