// Web shells: programs in a document root that run what a request says.

rule php_web_shell
{
    meta:
        description = "PHP that runs a part of the request"
    strings:
        $run = /\b(eval|assert|system|exec|shell_exec|passthru|popen|proc_open)\s*\(\s*(base64_decode\s*\(\s*)?@?\$_(GET|POST|REQUEST|COOKIE)\s*\[/ nocase
    condition:
        filesize < 5MB and $run
}

rule jsp_web_shell
{
    meta:
        description = "JSP that runs a part of the request"
    strings:
        $run = /Runtime\.getRuntime\(\)\.exec\(\s*request\.getParameter\(/
    condition:
        filesize < 5MB and $run
}

rule image_with_php
{
    meta:
        description = "a file that is called an image, and is PHP as well"
    strings:
        $php = "<?php"
    condition:
        (uint16(0) == 0xd8ff or uint32(0) == 0x474e5089 or uint32(0) == 0x38464947) and $php
}
