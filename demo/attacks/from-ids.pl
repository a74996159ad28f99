# What a taken IDS tries from inside its portspace, as root. Run by `perl -e`.
#
# usage: from-ids.pl write DIRECTORY… | signal PID… | packets MARK | connect MARK ADDRESS:PORT… | key PATH…
# Prints "got WHAT" for each success that it can see itself, "no WHY" for each failure, and "tried N"
# at the end. What left the portspace is measured where it would arrive.
use strict;
use warnings;
use Errno qw(EINPROGRESS);
use Fcntl;
use Socket;

my $verb  = shift // '';
my $tried = 0;

# Counts an attempt and prints what came of it.
sub attempt {
    my ($what, $worked) = @_;
    $tried++;
    print $worked ? "got $what\n" : "no $!\n";
}

sub slurp {
    open(my $file, '<', $_[0]) or return '';
    return join '', <$file>;
}

# Every way to change a directory, or a file in it.
sub write_ {
    for my $directory (map { $_, "/proc/1/root$_", "/proc/self/root$_" } @_) {
        my ($file) = grep { -f } glob "$directory/*";
        my $new = "$directory/from-the-ids";
        attempt("create $new",  sysopen(my $h1, $new, O_WRONLY | O_CREAT));
        attempt("mkdir $new",   mkdir $new);
        attempt("symlink $new", symlink('x', $new));
        attempt("chmod $directory", chmod(0777, $directory));
        attempt("chown $directory", chown(0, 0, $directory));
        remount($directory);
        next unless defined $file;
        attempt("append to $file", sysopen(my $h2, $file, O_WRONLY | O_APPEND));
        attempt("truncate $file",  truncate($file, 0));
        attempt("unlink $file",    unlink $file);
        attempt("rename $file",    rename($file, $new));
        attempt("link $file",      link($file, $new));
        attempt("chmod $file",     chmod(0777, $file));
        attempt("touch $file",     utime(0, 0, $file));
        open(my $reader, '<', $file) or next;
        my $again = '/proc/self/fd/' . fileno $reader;
        attempt("reopen $file", sysopen(my $h3, $again, O_WRONLY));
    }
}

# mount(2) with MS_REMOUNT | MS_BIND, so that the view would be writable.
sub remount {
    my ($directory) = @_;
    my $number = -e '/lib64/ld-linux-x86-64.so.2' ? 165 : 40;
    my ($none, $path) = ("none\0", "$directory\0");
    attempt("remount $directory", syscall($number, $none, $path, $none, 4096 | 32, 0) == 0);
}

# The servers' processes by the host's numbers, and everything else that its own procfs does not show.
sub signal_ {
    for my $pid (@_) {
        # The number may mean one of its own here.
        next if -e "/proc/$pid" && slurp("/proc/$pid/comm") !~ /nginx/;
        attempt("signal $pid", kill('KILL', $pid));
    }
    my $beyond = grep { !-e "/proc/$_" && kill(0, $_) } 1 .. 40000;
    attempt("signal $beyond processes beyond its own", $beyond > 0);
}

# A frame with a mark, by every kind of socket that could send one and on every interface.
sub packets {
    my ($mark) = @_;
    my $frame  = "\xff" x 6 . "\x02\0\0\0\0\x01" . "\x88\xb5" . $mark . "\0" x 46;
    my $all    = unpack('S', pack 'n', 3);    # ETH_P_ALL
    my @kinds  = ([17, SOCK_RAW, $all, 'packet socket'], [17, SOCK_DGRAM, $all, 'cooked packet socket'],
                  [17, 10, $all, 'SOCK_PACKET'], [AF_INET, SOCK_RAW, 255, 'raw IP socket']);
    # As it is; round the egress hook; by a ring instead of sendto(2); without the guard's mark.
    my @options = ([], [263, 20, pack('i', 1), 'PACKET_QDISC_BYPASS'],
                   [263, 13, pack('I4', 4096, 1, 2048, 2), 'PACKET_TX_RING'],
                   [SOL_SOCKET, 36, pack('i', 0), 'SO_MARK']);
    for my $kind (@kinds) {
        for my $option (@options) {
            my ($family, $type, $protocol, $name) = @$kind;
            my $made = socket(my $socket, $family, $type, $protocol);
            attempt("$name", 0), next unless $made;
            next if @$option && !option($socket, @$option);
            send_frames($socket, $family, $frame);
        }
    }
}

sub option {
    my ($socket, $level, $number, $value, $name) = @_;
    my $set = setsockopt($socket, $level, $number, $value);
    attempt($name, $set);
    return $set;
}

# That sendto(2) takes a frame says nothing: the guard drops it afterwards.
sub send_frames {
    my ($socket, $family, $frame) = @_;
    for my $index (1 .. 12) {
        my $to = $family == AF_INET ? pack_sockaddr_in(0, inet_aton('192.0.2.66'))
               : pack('S n i S C C a8', 17, 0x88b5, $index, 0, 0, 6, "\xff" x 6);
        $tried++;
        defined send($socket, $frame, 0, $to) or print "no $!\n";
    }
}

# A marked line by TCP and by UDP to every address at once, and echo requests.
sub connect_ {
    my ($mark, @targets) = @_;
    my %open;
    for my $target (@targets) {
        my ($address, $port) = split /:/, $target;
        my $to = pack_sockaddr_in($port, inet_aton($address));
        $tried += 2;
        send_udp($to, "<13>Jan  1 00:00:00 attack udp: $mark\n");
        socket(my $socket, AF_INET, SOCK_STREAM, 0) or next;
        fcntl($socket, F_SETFL, O_NONBLOCK);
        connect($socket, $to) || $! == EINPROGRESS ? ($open{$target} = $socket) : print "no $!\n";
    }
    echo_requests(map { /^(.*):/ ? $1 : () } @targets) if @targets <= 16;
    select(undef, undef, undef, 1.2);
    for my $target (sort keys %open) {
        my $error = unpack 'i', getsockopt($open{$target}, SOL_SOCKET, SO_ERROR);
        if (!$error && getpeername($open{$target})) {
            syswrite($open{$target}, "<13>Jan  1 00:00:00 attack tcp: $mark\n");
            print "got $target\n";
        } else {
            $! = $error || Errno::ETIMEDOUT();
            print "no $!\n";
        }
    }
}

sub send_udp {
    my ($to, $text) = @_;
    socket(my $socket, AF_INET, SOCK_DGRAM, 0) or return;
    defined send($socket, $text, 0, $to) or print "no $!\n";
}

sub echo_requests {
    for my $address (@_) {
        $tried++;
        my $socket;
        my $made = socket($socket, AF_INET, SOCK_RAW, 1) || socket($socket, AF_INET, SOCK_DGRAM, 1);
        do { print "no $!\n"; next } unless $made;
        my $request = pack 'C C n n n', 8, 0, 0xf7ff, 0, 0;
        defined send($socket, $request, 0, pack_sockaddr_in(0, inet_aton($address))) or print "no $!\n";
    }
}

# The VPN's private key, by the path that it has on the host.
sub key {
    attempt("open $_", open(my $handle, '<', $_)) for map { $_, "/proc/1/root$_" } @_;
}

my %verbs = (write => \&write_, signal => \&signal_, packets => \&packets, connect => \&connect_, key => \&key);
($verbs{$verb} // die "from-ids.pl: no verb '$verb'\n")->(@ARGV);
print "tried $tried\n";
