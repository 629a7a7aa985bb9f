-- A listener is known for a while; one that died is removed by the next that registers.
with old as materialized (
  select handle
    from {schema}.conveyor_listeners
   where expires_at < clock_timestamp() - interval '5 minutes'
   order by handle
     for update skip locked
), forgotten as (
  delete from {schema}.conveyor_listeners
   using old
   where conveyor_listeners.handle = old.handle
)
insert into {schema}.conveyor_listeners (handle, wanted, expires_at)
values (%(handle)s, %(wanted)s::json, clock_timestamp() + make_interval(secs => %(seconds)s::double precision))
    on conflict (handle)
    do update
   set wanted = excluded.wanted,
       expires_at = excluded.expires_at
