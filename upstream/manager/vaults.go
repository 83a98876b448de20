package manager

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// A VaultRequest asks for a vault made from a template. With the certificate of
// a private account it becomes a locked vault.
type VaultRequest struct {
	Template    int64
	Name        string
	Description string // may be ""
	// Mirror is the mirror it joins, or 0 for none.
	Mirror int64
	// MirrorPosition is position1 or position2, or "" for the free one.
	MirrorPosition string
	// ProvisioningCode is the vault's name if "".
	ProvisioningCode string
	Organization     int64 // 0 for none
}

// A MirrorRequest asks for a mirror made from a template.
type MirrorRequest struct {
	Template     int64
	Name         string
	Description  string // may be ""
	Organization int64  // 0 for none
}

// A Vault is one of the account's.
type Vault struct {
	ID             int64  `json:"id"`
	Name           string `json:"name"`
	Locked         bool   `json:"locked"`
	OwnerAccountID int64  `json:"ownerAccountId"`
	TemplateID     int64  `json:"templateId"`
	Empty          bool   `json:"empty"`
}

// CreateVault makes a vault and returns its id. If the answer is lost it looks
// for a vault of that name, template and account, and takes that for the one
// that was made.
func (c *Client) CreateVault(ctx context.Context, r VaultRequest) (int64, error) {
	form := url.Values{"id": {number(r.Template)}, "name": {r.Name}}
	put(form, "description", r.Description)
	put(form, "mirrorPositionCode", r.MirrorPosition)
	put(form, "provisioningCode", r.ProvisioningCode)
	putNumber(form, "mirrorId", r.Mirror)
	putNumber(form, "organizationId", r.Organization)
	id, err := c.create(ctx, call{op: "create vault", item: r.Name, method: "createVaultFromTemplate", form: form})
	if e, ok := errors.AsType[*upstream.Error](err); !ok || !e.Sent {
		return id, err
	}
	vaults, listErr := c.Vaults(ctx)
	if listErr != nil {
		return 0, err
	}
	for _, v := range vaults {
		if v.Name == r.Name && v.TemplateID == r.Template && (c.cfg.AccountID == 0 || v.OwnerAccountID == c.cfg.AccountID) {
			return v.ID, nil
		}
	}
	return 0, err
}

// CreateMirror makes a mirror and returns its id. There is no list of mirrors,
// so a lost answer stays lost: Error.Sent says so.
func (c *Client) CreateMirror(ctx context.Context, r MirrorRequest) (int64, error) {
	form := url.Values{"id": {number(r.Template)}, "name": {r.Name}}
	put(form, "description", r.Description)
	putNumber(form, "organizationId", r.Organization)
	return c.create(ctx, call{op: "create mirror", item: r.Name, method: "createMirrorFromTemplate", form: form})
}

// create makes a call that answers an id.
func (c *Client) create(ctx context.Context, k call) (int64, error) {
	var data struct {
		ID *int64 `json:"id"`
	}
	c.cfg.HTTP.Reset() // see issue
	if err := c.do(ctx, c.cfg.HTTP, k, &data); err != nil {
		return 0, err
	}
	if data.ID == nil {
		return 0, &upstream.Error{
			Upstream: c.cfg.HTTP.Name(), Op: k.op, Item: k.item, Code: upstream.Unavailable, Status: 200,
			Text: "answer without an id", Sent: true,
		}
	}
	return *data.ID, nil
}

// Vaults lists the vaults that the account may see.
func (c *Client) Vaults(ctx context.Context) ([]Vault, error) {
	var data struct {
		Vaults []Vault `json:"vaults"`
	}
	err := c.do(ctx, c.cfg.HTTP, call{op: "list vaults", method: "listVaults", idempotent: true}, &data)
	return data.Vaults, err
}

// DeleteVault deletes an empty vault of the account. If the answer is lost it
// looks whether the vault is gone.
func (c *Client) DeleteVault(ctx context.Context, id int64) error {
	// The account has a certificate and no password.
	form := url.Values{"id": {number(id)}, "password": {""}}
	c.cfg.HTTP.Reset() // see issue
	err := c.do(ctx, c.cfg.HTTP, call{op: "delete vault", item: number(id), method: "deleteVault", form: form}, nil)
	if e, ok := errors.AsType[*upstream.Error](err); !ok || !e.Sent {
		return err
	}
	vaults, listErr := c.Vaults(ctx)
	if listErr != nil {
		return err
	}
	for _, v := range vaults {
		if v.ID == id {
			return err
		}
	}
	return nil
}

// An Account is a private account as the Manager shows it.
type Account struct {
	ID                int64  `json:"id"`
	Name              string `json:"name"`
	Type              string `json:"type"`
	State             string `json:"state"`
	SubjectDN         string `json:"subjectDn"`
	CertificateSerial string `json:"certificateSerial"`
	// CertificateExpiration is in milliseconds since 1970, or 0.
	CertificateExpiration int64 `json:"certificateExpiration"`
	Disabled              bool  `json:"disabled"`
}

// Accounts lists the accounts that the caller may see, usually its own alone.
func (c *Client) Accounts(ctx context.Context) ([]Account, error) {
	var data struct {
		Accounts []Account `json:"accounts"`
	}
	err := c.do(ctx, c.cfg.HTTP, call{op: "list accounts", method: "listAccounts", idempotent: true}, &data)
	return data.Accounts, err
}

// An Event is what the Manager has noticed about the account.
type Event struct {
	ID         int64     `json:"id"`
	Time       time.Time `json:"time"`
	Type       string    `json:"type"`    // certificateExpiring
	Message    string    `json:"message"` // one line
	Expiration time.Time `json:"expiration"`
}

// Events lists the events of the account. They are a second signal only: the
// dates of the certificate say as much.
func (c *Client) Events(ctx context.Context) ([]Event, error) {
	var data struct {
		Events []struct {
			ID         int64  `json:"id"`
			Time       int64  `json:"time"`
			Type       string `json:"type"`
			Message    string `json:"message"`
			Expiration int64  `json:"expiration"`
		} `json:"events"`
	}
	k := c.call("list events", "listEvents")
	k.form, k.idempotent = url.Values{"accountId": {k.item}}, true
	if err := c.do(ctx, c.cfg.HTTP, k, &data); err != nil {
		return nil, err
	}
	events := make([]Event, 0, len(data.Events))
	for _, e := range data.Events {
		events = append(events, Event{e.ID, time.UnixMilli(e.Time), upstream.OneLine(e.Type), upstream.OneLine(e.Message), time.UnixMilli(e.Expiration)})
	}
	return events, nil
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func put(form url.Values, name, value string) {
	if value != "" {
		form.Set(name, value)
	}
}

func putNumber(form url.Values, name string, n int64) {
	if n != 0 {
		form.Set(name, number(n))
	}
}
