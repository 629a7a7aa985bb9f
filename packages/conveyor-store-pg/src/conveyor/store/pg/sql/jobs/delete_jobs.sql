delete from {schema}.conveyor_jobs
 where seq = any(%(seqs)s::bigint[])
