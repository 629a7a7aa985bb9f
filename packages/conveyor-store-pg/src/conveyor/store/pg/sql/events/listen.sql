-- A listener is known for a while; one that died is forgotten by whoever comes next.
with old as materialized (
  select handle
    from {schema}.conveyor_listeners
   where until < clock_timestamp() - interval '5 minutes'
   order by handle
     for update skip locked
), forgotten as (
  delete from {schema}.conveyor_listeners
   using old
   where conveyor_listeners.handle = old.handle
)
insert into {schema}.conveyor_listeners (handle, wanted, until)
values (%(handle)s, %(wanted)s::json, clock_timestamp() + make_interval(secs => %(seconds)s::double precision))
    on conflict (handle)
    do update
   set wanted = excluded.wanted,
       until = excluded.until
