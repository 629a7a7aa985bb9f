-- Two keys, so as not to meet the locks that an application takes with one.
select pg_advisory_xact_lock(%(family)s, %(member)s)
