select pg_notify(%(channel)s, part)
  from unnest(%(parts)s::text[]) with ordinality as parts (part, place)
 order by place
