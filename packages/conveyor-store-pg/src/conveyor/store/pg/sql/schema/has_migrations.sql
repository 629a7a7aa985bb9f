select exists (
  select
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
   where nspname = %(schema)s
     and relname = 'conveyor_migrations'
)
