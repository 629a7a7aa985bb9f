insert into conveyor_pauses (queue, kind, target, resumes_at)
values (:queue, :kind, :target, :resumes_at)
on conflict (queue, kind, target) do update
  set resumes_at = case
        when resumes_at <= :now then excluded.resumes_at
        when resumes_at is null or excluded.resumes_at is null then null
        else max(resumes_at, excluded.resumes_at)
      end
