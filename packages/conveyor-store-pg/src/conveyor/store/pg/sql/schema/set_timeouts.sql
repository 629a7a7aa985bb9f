-- For this transaction only. A migration may take as long as it takes, but waits for nobody for long.
select set_config('lock_timeout', %(milliseconds)s, true), set_config('statement_timeout', '0', true)
