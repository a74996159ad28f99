# What this site looks at.
@load base/frameworks/notice
@load policy/protocols/ssh/detect-bruteforcing
@load policy/protocols/http/detect-sqli
@load policy/misc/scan
@load policy/tuning/json-logs

# The directory that the portspace keeps.
redef Log::default_logdir = "/var/log/zeek";
# Yours here.
redef Site::local_nets = { 192.0.2.0/24 };
