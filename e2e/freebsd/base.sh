#!/bin/sh
# On the FreeBSD machine: writes to standard output a tar of what the test images are made of, out of its own base system: a
# shell and small programs with the libraries that they load, users and groups with their databases, and two programs of
# critest's images that the base system has only in another form:
#   top      critest's command for "a container that runs": FreeBSD's ends at once without a terminal
#   httpd    a web server on the port of its argument: inetd(8) and a script
set -eu

programs="sh cat chmod cp date dd df echo env expr false fetch grep head hostname id ifconfig inetd ipcs kill limits ln ls mkdir mount
mv nc netstat pgrep ping printenv ps pwd rm sed seq sleep sort stat sync sysctl tail test touch tr true uname wc"

path=/bin:/usr/bin:/sbin:/usr/sbin
missing=
for name in $programs; do
    PATH=$path which -s "$name" || missing="$missing $name"
done
[ -z "$missing" ] || { echo "the test images need of this machine's base system:$missing" >&2; exit 1; }

stage=$(mktemp -d /var/tmp/cellblock-base.XXXXXX)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/bin" "$stage/dev" "$stage/etc" "$stage/libexec" "$stage/root" "$stage/proc" "$stage/var/run" "$stage/var/www" "$stage/tmp"
chmod 1777 "$stage/tmp"

for name in $programs; do
    program=$(PATH=$path which "$name")
    mkdir -p "$stage${program%/*}"
    [ -e "$stage$program" ] || cp -p "$program" "$stage$program"
    # Programs that are linked statically have nothing to say here.
    for library in $(ldd -f '%p\n' "$program" 2>/dev/null); do
        case $library in /*) ;; *) continue ;; esac
        mkdir -p "$stage${library%/*}"
        [ -e "$stage$library" ] || cp -p "$library" "$stage$library"
    done
done
cp -p /libexec/ld-elf.so.1 "$stage/libexec/"
find "$stage" -type f -exec chflags noschg {} +
find "$stage" -type f -exec chmod u+w {} +

cat >"$stage/bin/top" <<'TOP'
#!/bin/sh
exec tail -f /dev/null
TOP
cat >"$stage/bin/httpd" <<'HTTPD'
#!/bin/sh
echo "httpd is on port $1"
for family in tcp4 tcp6; do
    echo "port$1 stream $family nowait root /bin/sh sh /var/www/answer"
done >/tmp/inetd.conf
exec /usr/sbin/inetd -d -R 0 /tmp/inetd.conf 2>/dev/null
HTTPD
cat >"$stage/var/www/answer" <<'ANSWER'
# A line ends in a carriage return: one that is nothing else ends the request.
while read -r line && [ ${#line} -gt 1 ]; do :; done
read -r body </var/www/index.html
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s\n' $((${#body} + 1)) "$body"
ANSWER
echo 'It works! Welcome to nginx!' >"$stage/var/www/index.html"
chmod 755 "$stage/bin/top" "$stage/bin/httpd"

# The place of a container's own: without another mount, a read-only root is the unpacked image itself then.
: >"$stage/etc/resolv.conf"
# login.conf: inetd(8) says what it misses there into the connection.
cp /etc/protocols /etc/netconfig /etc/login.conf "$stage/etc/"
cat >"$stage/etc/services" <<'SERVICES'
port80 80/tcp
port12003 12003/tcp
SERVICES
cat >"$stage/etc/group" <<'GROUP'
wheel:*:0:root
daemon:*:1:
users:*:100:
www-data:*:33:
nobody:*:65534:
default-user:*:1000:
group-defined-in-image:*:50000:default-user
GROUP
cat >"$stage/etc/master.passwd" <<'PASSWD'
root::0:0::0:0:root:/root:/bin/sh
daemon:*:1:1::0:0:daemon:/root:/usr/sbin/nologin
www-data:*:33:33::0:0:www-data:/var/www:/usr/sbin/nologin
default-user:*:1000:1000::0:0:default-user:/root:/bin/sh
nobody:*:65534:65534::0:0:nobody:/nonexistent:/usr/sbin/nologin
PASSWD
chmod 600 "$stage/etc/master.passwd"
pwd_mkdb -p -d "$stage/etc" "$stage/etc/master.passwd"

tar -C "$stage" -cf - .
