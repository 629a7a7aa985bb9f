insert into conveyor_windows (queue, kind, longest)
values (:queue, :kind, :longest)
on conflict (queue, kind) do update
  set longest = excluded.longest
where excluded.longest > longest
