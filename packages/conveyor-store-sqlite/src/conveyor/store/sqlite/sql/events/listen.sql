insert into conveyor_listeners (handle, wanted, until)
values (:handle, :wanted, :until)
on conflict (handle) do update
  set wanted = excluded.wanted,
      until = excluded.until
