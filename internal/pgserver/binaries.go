package pgserver

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
	"github.com/xi2/xz"

	"walferry/internal/proc"
)

type archive struct {
	major   int
	version string
	sha256  string
}

// archives are the pinned versions by major. The sums are of the linux-amd64 jars; the jars of other systems are held
// against the sum that the repository has beside them.
var archives = []archive{
	{14, "14.23.0", "d041b87dd72016f2baf93bca54e91d3c85c2b8132bbf86ad82056d6b24b353ce"},
	{15, "15.18.0", "6490649298abbe834a969b57df53e66e056f76894054a8f32f7a56f33abe0087"},
	{16, "16.14.0", "3278331b124b46fb9f8bea30c7ff3bd6227a3934dad38a6ddb625eb7dcfa8ca8"},
	{17, "17.10.0", "a6c44794a7a258621b8cb98c196bf621cdd705d9fa73c3628166b658c419877a"},
	{18, "18.4.0", "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212"},
}

const (
	oldest, newest = 14, 18
	maxArchive     = 64 << 20 // bytes; a jar has 15 MB
	maxFile        = 256 << 20
)

// binaries is a folder with initdb and postgres in it.
type binaries struct {
	major int
	dir   string
}

// embeddedOnly is the value of WALFERRY_POSTGRES that leaves installed servers out, so that a machine which has one shows
// what a machine without any does.
const embeddedOnly = "embedded"

// find returns the binaries of a version: installed ones, else a downloaded archive.
func find(ctx context.Context, version string, asOther bool, progress io.Writer) (binaries, error) {
	var found []binaries
	switch v := os.Getenv("WALFERRY_POSTGRES"); v {
	case "":
		found = installed()
	case embeddedOnly:
	default:
		return binaries{}, fmt.Errorf("WALFERRY_POSTGRES=%s: %s or nothing", v, embeddedOnly)
	}
	if version == "" {
		if len(found) > 0 {
			return found[0], nil
		}
		return embedded(ctx, newest, asOther, progress)
	}
	major, err := strconv.Atoi(version)
	if err != nil || major < oldest || major > newest {
		return binaries{}, fmt.Errorf("version %q: %d to %d, the major alone", version, oldest, newest)
	}
	for _, b := range found {
		if b.major == major {
			return b, nil
		}
	}
	return embedded(ctx, major, asOther, progress)
}

// installed lists the servers on this machine, newest first: where Debian, Red Hat and Homebrew put them, and what
// stands in the PATH.
func installed() []binaries {
	var found []binaries
	add := func(major int, dir string) {
		known := slices.ContainsFunc(found, func(b binaries) bool { return b.major == major })
		if !known && executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			found = append(found, binaries{major, dir})
		}
	}
	for major := newest; major >= oldest; major-- {
		for _, pattern := range []string{"/usr/lib/postgresql/%d/bin", "/usr/pgsql-%d/bin",
			"/opt/homebrew/opt/postgresql@%d/bin", "/usr/local/opt/postgresql@%d/bin"} {
			add(major, fmt.Sprintf(pattern, major))
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// "postgres (PostgreSQL) 17.10 (Debian …)"; what cannot be asked or read is not used.
		if out, err := exec.Command(path, "--version").Output(); err == nil {
			if f := strings.Fields(string(out)); len(f) > 2 {
				number, _, _ := strings.Cut(f[2], ".")
				if major, err := strconv.Atoi(number); err == nil && major >= oldest && major <= newest {
					add(major, filepath.Dir(path))
				}
			}
		}
	}
	slices.SortStableFunc(found, func(a, b binaries) int { return b.major - a.major })
	return found
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// unprivileged returns whom the server runs as when we are root, and nil when we are not.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("a server cannot run as root, and there is neither a user postgres nor nobody to run it as")
}

// embedded returns the archive's binaries of a major version out of the cache, which it fills.
func embedded(ctx context.Context, major int, asOther bool, progress io.Writer) (binaries, error) {
	cache, err := cacheDir(asOther)
	if err != nil {
		return binaries{}, err
	}
	a := archives[slices.IndexFunc(archives, func(a archive) bool { return a.major == major })]
	dir := filepath.Join(cache, a.version)
	b := binaries{major, filepath.Join(dir, "bin")}
	unlock, err := proc.Lock(ctx, dir+".lock")
	if err != nil {
		return binaries{}, err
	}
	defer unlock()
	if executable(filepath.Join(b.dir, "postgres")) {
		return b, nil
	}
	sum := a.sha256
	if platform() != "linux-amd64" {
		sum = ""
	}
	if progress != nil {
		// Progress is for people; a reader of it that went away must not stop the start.
		_, _ = fmt.Fprintf(progress, "postgres %s is not installed: downloading the archive, once\n", a.version)
	}
	jar, err := download(ctx, a.version, sum)
	if err != nil {
		return binaries{}, fmt.Errorf("version %s is not installed, and its archive: %w", a.version, err)
	}
	// Extracted beside and renamed: a folder by this name is whole.
	part, err := os.MkdirTemp(cache, a.version+".part")
	if err != nil {
		return binaries{}, err
	}
	err = errors.Join(os.Chmod(part, 0o755), extract(jar, part))
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err == nil {
		err = os.Rename(part, dir)
	}
	if err != nil {
		return binaries{}, errors.Join(fmt.Errorf("archive of %s: %w", a.version, err), os.RemoveAll(part))
	}
	return b, nil
}

// cacheDir is the user's cache folder, or where another user must run what is in it and cannot reach it (/root is
// closed on most systems), one of the system's.
func cacheDir(asOther bool) (string, error) {
	base, err := os.UserCacheDir()
	switch {
	case err == nil && (!asOther || reachable(base)):
		base = filepath.Join(base, "walferry")
	case asOther:
		base = "/var/cache/walferry"
	default: // no HOME
		base = filepath.Join(os.TempDir(), "walferry-"+strconv.Itoa(os.Getuid()))
	}
	dir := filepath.Join(base, "postgres")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	// Programs are run out of it: a folder that someone else made first, under /tmp say, is not ours to trust.
	for _, d := range []string{base, dir} {
		info, err := os.Lstat(d)
		if err != nil {
			return "", fmt.Errorf("cache: %w", err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && int(st.Uid) != os.Geteuid() {
			return "", fmt.Errorf("cache: %s is not a folder of this user", d)
		}
	}
	return dir, nil
}

// reachable reports whether everyone may enter the folder, which may not exist yet, and all above it.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// platform names the archive of this machine, as the archives' project does.
func platform() string {
	arch := runtime.GOARCH
	if arch == "arm64" {
		arch = "arm64v8"
	}
	if _, err := os.Stat("/etc/alpine-release"); err == nil {
		arch += "-alpine"
	}
	return runtime.GOOS + "-" + arch
}

// repository is the base URL of the Maven repository that embedded-postgres takes its archives from. Its fetch cannot be
// used by itself (it comes with a start of the server as the user we are, which Postgres refuses to root), its default
// can: it is an unexported string field of its configuration, and a test here fails should that change.
// WALFERRY_MAVEN_REPOSITORY names a mirror.
func repository() (string, error) {
	if url := os.Getenv("WALFERRY_MAVEN_REPOSITORY"); url != "" {
		return strings.TrimSuffix(url, "/"), nil
	}
	f := reflect.ValueOf(embeddedpostgres.DefaultConfig()).FieldByName("binaryRepositoryURL")
	if f.Kind() != reflect.String || f.String() == "" {
		return "", errors.New("embedded-postgres names no repository: set WALFERRY_MAVEN_REPOSITORY")
	}
	return f.String(), nil
}

// download returns the jar of a version after its sum was compared: with the pinned one, or where none is pinned, with
// the one that lies beside the jar.
func download(ctx context.Context, version, sum string) ([]byte, error) {
	base, err := repository()
	if err != nil {
		return nil, err
	}
	artifact := "embedded-postgres-binaries-" + platform()
	url := fmt.Sprintf("%s/io/zonky/test/postgres/%s/%s/%s-%s.jar", base, artifact, version, artifact, version)
	if sum == "" {
		b, err := get(ctx, url+".sha256")
		if err != nil {
			return nil, err
		}
		sum = strings.TrimSpace(string(b))
	}
	jar, err := get(ctx, url)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(jar); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%s: sha256 is %x, want %s", url, got, sum)
	}
	return jar, nil
}

// get tries three times: a repository far away is allowed a hiccup, and a "no" from it is final.
func get(ctx context.Context, url string) (b []byte, err error) {
	for try := range 3 {
		if try > 0 {
			if err := sleep(ctx, time.Duration(try)*time.Second); err != nil {
				return nil, err
			}
		}
		var final bool
		if b, final, err = getOnce(ctx, url); err == nil || final {
			return b, err
		}
	}
	return nil, err
}

func getOnce(ctx context.Context, url string) (b []byte, final bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, true, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only, and read to its end or given up
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode < 500, fmt.Errorf("get %s: %s", url, resp.Status)
	}
	if b, err = io.ReadAll(io.LimitReader(resp.Body, maxArchive+1)); err != nil {
		return nil, false, fmt.Errorf("get %s: %w", url, err)
	}
	if len(b) > maxArchive {
		return nil, true, fmt.Errorf("get %s: larger than %d bytes", url, maxArchive)
	}
	return b, false, nil
}

// extract unpacks the .txz in the jar into dir. os.Root keeps names with ".." and links that lead outside from writing
// anywhere else.
func extract(jar []byte, dir string) error {
	z, err := zip.NewReader(bytes.NewReader(jar), int64(len(jar)))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(z.File, func(f *zip.File) bool { return strings.HasSuffix(f.Name, ".txz") })
	if i < 0 {
		return errors.New("no .txz in it")
	}
	txz, err := z.File[i].Open()
	if err != nil {
		return err
	}
	defer txz.Close() //nolint:errcheck // read only
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // a folder's handle
	x, err := xz.NewReader(txz, 0)
	if err != nil {
		return err
	}
	for t := tar.NewReader(x); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := place(root, h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func place(root *os.Root, h *tar.Header, content io.Reader) error {
	name := filepath.Clean(h.Name)
	// Readable by the unprivileged user in any case, writable by the owner alone.
	perm := os.FileMode(h.Mode)&0o755 | 0o444
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		if h.Size > maxFile {
			return fmt.Errorf("%d bytes are too many", h.Size)
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("unexpected type %q", h.Typeflag)
}
