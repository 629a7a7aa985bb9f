insert into conveyor_listeners (handle, wanted, expires_at)
values (:handle, :wanted, :expires_at)
on conflict (handle) do update
  set wanted = excluded.wanted,
      expires_at = excluded.expires_at
