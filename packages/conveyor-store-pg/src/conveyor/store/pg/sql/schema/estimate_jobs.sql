-- How many jobs the server takes to be there when it plans a statement.
select c.reltuples
  from pg_class c
  join pg_namespace n
    on n.oid = c.relnamespace
 where n.nspname = %(schema)s
   and c.relname = 'conveyor_jobs'
