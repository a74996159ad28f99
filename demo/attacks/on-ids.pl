# What a broken-into server tries against the IDSs on its host. Run by `perl -e`.
#
# usage: on-ids.pl find|kill|read|reach NAME=VALUE,VALUE…
#   pids       process ids of the IDSs, as the host numbers them
#   names      what their programs are called
#   paths      directories and files of HyperSpector
#   addresses  the IDSs' addresses in their VPN
#   ports      UDP ports of the VPNs
#   sockets    Unix-domain sockets of HyperSpector
# Prints "got WHAT" for each success, "no WHY" for each failure, and "tried N" at the end.
use strict;
use warnings;
use Errno qw(EINPROGRESS);
use Socket;

my $verb = shift // '';
my %given = map { my ($name, $values) = split /=/, $_, 2; $name => [split /,/, $values // ''] } @ARGV;
my $tried = 0;

sub got { print "got $_[0]\n" }
sub no_ { print "no $!\n" }
sub given { @{ $given{ $_[0] } // [] } }

# Process ids that procfs shows, with what their programs are called.
sub processes {
    opendir(my $proc, '/proc') or return;
    my %seen;
    for my $pid (grep { /^\d+$/ } readdir $proc) {
        my ($program) = split /\0/, slurp("/proc/$pid/cmdline") // '';
        $seen{$pid} = (slurp("/proc/$pid/comm") // '') . ($program // '');
    }
    delete @seen{ $$, getppid };
    return %seen;
}

sub slurp {
    open(my $file, '<', $_[0]) or return;
    local $/;
    return scalar <$file>;
}

# Those among them that look like an IDS.
sub ids_among {
    my %seen = @_;
    my $names = join '|', map { quotemeta } given('names') or return;
    return grep { $seen{$_} =~ /$names/i } sort { $a <=> $b } keys %seen;
}

sub find {
    my %seen = processes();
    my @sockets = split /\n/, slurp('/proc/net/unix') // '';
    $tried = keys(%seen) + @sockets;
    got("process $_") for ids_among(%seen);
    my %paths = map { /(\S*hyperspector\S*)/ ? ($1 => 1) : () } @sockets;
    got("socket $_") for sort keys %paths;
}

# By number, as if somebody had told it, and by name.
sub kill_ {
    my %seen = processes();
    my %targets = map { $_ => 1 } ids_among(%seen), given('pids');
    for my $pid (sort { $a <=> $b } keys %targets) {
        $tried++;
        # A number may mean another process here; where there are no names to tell, it does not.
        next if given('names') && exists $seen{$pid} && !grep { $_ == $pid } ids_among(%seen);
        kill('STOP', $pid) ? got("stopped $pid") : no_();
        kill('KILL', $pid) ? got("killed $pid") : no_();
    }
}

sub read_ {
    my %seen = processes();
    for my $pid (ids_among(%seen), given('pids')) {
        for my $file (qw(maps environ io)) {
            $tried++;
            # Of a process that has ended there is an empty file.
            length(slurp("/proc/$pid/$file") // '') ? got("/proc/$pid/$file") : no_();
        }
        $tried++;
        memory($pid) ? got("/proc/$pid/mem") : no_();
        for my $directory (qw(root cwd fd map_files)) {
            $tried++;
            my $path = "/proc/$pid/$directory/";
            opendir(my $handle, $path) ? got($path) : no_();
        }
        $tried++;
        defined readlink("/proc/$pid/exe") ? got("/proc/$pid/exe") : no_();
    }
    read_path($_) for given('paths');
}

# A byte of its memory, at the address of its first mapping or where a program usually is.
sub memory {
    my ($pid) = @_;
    my $start = (slurp("/proc/$pid/maps") // '') =~ /^([0-9a-f]+)-/ ? hex $1 : 0x400000;
    open(my $memory, '<', "/proc/$pid/mem") or return;
    sysseek($memory, $start, 0);
    return sysread($memory, my $byte, 1);
}

sub read_path {
    my ($path) = @_;
    $tried++;
    if (opendir(my $directory, $path)) { got($path) }
    elsif (open(my $file, '<', $path)) { got($path) }
    else                               { no_() }
}

sub reach {
    for my $address (given('addresses')) { connect_tcp($address, $_) for 10514, 22, 80 }
    for my $port (given('ports')) { ask_vpn($port) }
    for my $path (given('sockets'), (slurp('/proc/net/unix') // '') =~ /(\S*hyperspector\S*)/g) {
        $tried++;
        my $name = $path =~ /^@/ ? "\0" . substr($path, 1) : $path;
        my $reached = 0;
        for my $kind (SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM) {
            socket(my $socket, AF_UNIX, $kind, 0) or next;
            $reached ||= connect($socket, pack_sockaddr_un($name));
        }
        $reached ? got($path) : no_();
    }
    join_network($_) for given('pids');
}

sub connect_tcp {
    my ($address, $port) = @_;
    $tried++;
    socket(my $socket, AF_INET, SOCK_STREAM, 0) or return no_();
    $socket->blocking(0) if $socket->can('blocking');
    return got("$address:$port") if connect($socket, pack_sockaddr_in($port, inet_aton($address)));
    return no_() unless $! == EINPROGRESS;
    my $wanted = '';
    vec($wanted, fileno($socket), 1) = 1;
    select(undef, $wanted, undef, 0.5) or do { $! = Errno::ETIMEDOUT(); return no_() };
    $! = unpack 'i', getsockopt($socket, SOL_SOCKET, SO_ERROR);
    $! ? no_() : got("$address:$port");
}

# The VPN's port is the one thing that listens: it must not answer rubbish.
sub ask_vpn {
    my ($port) = @_;
    $tried++;
    socket(my $socket, AF_INET, SOCK_DGRAM, 0) or return no_();
    connect($socket, pack_sockaddr_in($port, inet_aton('127.0.0.1'))) or return no_();
    send($socket, pack('C', $_) . "\0" x 3 . 'x' x 144, 0) for 1 .. 4;
    my $wanted = '';
    vec($wanted, fileno($socket), 1) = 1;
    return got("an answer from UDP $port")
        if select($wanted, undef, undef, 0.5) && defined recv($socket, my $answer, 2048, 0);
    $! ||= Errno::ETIMEDOUT();
    no_();
}

# setns(2) into the IDS's network.
sub join_network {
    my ($pid) = @_;
    $tried++;
    my %number = (x86_64 => 308, aarch64 => 268);
    my $machine = slurp('/proc/sys/kernel/arch') // (-e '/lib64/ld-linux-x86-64.so.2' ? 'x86_64' : 'aarch64');
    chomp $machine;
    open(my $namespace, '<', "/proc/$pid/ns/net") or return no_();
    syscall($number{$machine}, fileno($namespace), 0) == 0 ? got("network of $pid") : no_();
}

my %verbs = (find => \&find, kill => \&kill_, read => \&read_, reach => \&reach);
($verbs{$verb} // die "on-ids.pl: no verb '$verb'\n")->();
print "tried $tried\n";
