insert into {schema}.conveyor_migrations (version, name)
values (%(version)s, %(title)s)
