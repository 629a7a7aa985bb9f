insert into conveyor_migrations (version, name, at)
values (:version, :name, :at)
