select pg_notify(%(channel)s, chunk)
  from unnest(%(chunks)s::text[]) with ordinality as chunks (chunk, number)
 order by number
